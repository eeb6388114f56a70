"""The neurons: their parameters, the reference, operators, modules, and the backends that compute them."""
