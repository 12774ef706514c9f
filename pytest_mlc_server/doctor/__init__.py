"""``doctor``: what a run with certain settings would find, before anything is started."""
