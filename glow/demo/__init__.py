"""``python demo.py``: a page on which what ``sample.py`` and ``evaluate.py`` do follows the mouse."""
