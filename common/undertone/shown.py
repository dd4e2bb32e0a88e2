"""Text from files as a message may show it."""


def shown(text: str, most: int = 200) -> str:
    """One line, no control characters, not endless: what a file holds must not write lines or colours of its own."""
    plain = text if text.isprintable() else ascii(text)[1:-1]
    return plain if len(plain) <= most else f"{plain[:most]}..."
