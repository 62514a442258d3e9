"""The contract between the parts: the custom resource, the run file, outcomes, metric names and the storage layout.

Nothing here does I/O, and nothing here knows Kopf, torch or boto3. The CRD, the chart's schema and the reference
pages are generated from these types (`make sync`).
"""
