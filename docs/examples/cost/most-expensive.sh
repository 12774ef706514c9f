pytest --ignore=over
