"""Methods that learn a word: each unit its own (`dpagg_ti.py`), or all units one (`dpsgd_ti.py`)."""
