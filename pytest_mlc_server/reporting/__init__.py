"""What a test run shows of its servers. A module for each role; all may import pytest."""
