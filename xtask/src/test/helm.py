"""Lints a chart and prints what comes of it: helm.py CHART VALUES-AS-JSON"""

import json
import sys

import helm_python

chart_path, values = sys.argv[1], json.loads(sys.argv[2])
report = helm_python.lint(chart_path, values, strict=True)
# Messages of severity 1 are mere advice.
faults = [message for message in report["messages"] if message["severity"] > 1]
if faults or report["errors"]:
    sys.exit(f"helm lint: {faults} {report['errors']}")
with helm_python.Chart.load(chart_path) as chart:
    rendered = chart.render(values, name="svcproxy", namespace="kube-system")
for name, text in sorted(rendered.items()):
    if name.endswith(".yaml") and text.strip():
        print(f"---\n{text.strip()}")
