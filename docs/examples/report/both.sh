pytest --mlc-report out/report.html --mlc-report out/report.json
