"""The report to look at: ``--mlc-report``, as a page (.html) or as data (.json).

``record`` collects while tests run, ``data`` is what is known at the end, ``page`` shows it, and
``writing`` brings it to a file.
"""
