pytest
pytest
