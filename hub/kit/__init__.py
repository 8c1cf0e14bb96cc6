"""The conformance kit: one suite that every connector passes, the hub's own and others', against a hostile server.

server      an HTTP server that says what it is told, and misbehaves in every way that real ones have
checks      what a connector owes, each as one short function
running     a connector through all checks
scaffold    what `hub connector new` writes
"""
