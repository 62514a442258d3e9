"""What is made from the contract's types: the CRD, the chart's schema of values, the reference pages.

Tooling of the project: no image holds it, and nothing that runs in a cluster imports it.
"""
