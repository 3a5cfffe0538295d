"""`joulecast serve`: estimates over HTTP, for a fleet. It reads configs and workload documents and runs no user code.

`requests` says what a client may ask, `answers` answers it from caches, `app` is the HTTP application.
"""
