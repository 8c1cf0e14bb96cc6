"""The conformance kit: one suite that every connector passes, the hub's own and others', against a hostile server.

server      an HTTP server that says what it is told, and misbehaves in every way that real ones have
bench       a connector opened against it, messages, and the requests that a delivery comes to
checks      what every connector owes, those that reach a network, those that speak HTTP; each as one short function
answers     what it makes of answers, to each of its requests
requests    what it sends, in each of them
running     a connector through all checks
scaffold    what `hub connector new` writes
"""
