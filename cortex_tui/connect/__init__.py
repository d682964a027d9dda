"""`cortex-tui connect`: the configuration of clients for a gateway.

`clients` is the table of them; the README and the tests are made from the same one.
"""
