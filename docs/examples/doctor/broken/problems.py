import json
from pathlib import Path

told = json.loads(Path("doctor.json").read_text())
sections = told["sections"] + [
    section for server in told["servers"] for section in server["sections"]
]
for section in sections:
    for finding in section["findings"]:
        if finding["level"] == "problem":
            print(f"{finding['code']}: {finding['remedy']}")
