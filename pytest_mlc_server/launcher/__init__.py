"""What runs in the server's interpreter: how the server is launched there, and what is asked there.

This package need not be installed in that interpreter. Its files are executed by their paths, on
the standard library of Python 3.9 or newer, and import each other relatively: `entry` makes them a
package of a private name.
"""
