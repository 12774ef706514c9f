pytest --mlc-report report.html
