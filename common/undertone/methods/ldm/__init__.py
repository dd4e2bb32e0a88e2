"""The method that trains whole transformer blocks and the text encoder."""
