"""A gRPC server over HTTP/2 in one thread.

Most of a call's cost in `grpc.aio` is the hand-over between its threads; here the event loop reads
the socket itself. See docs/decisions for what that gains.
"""
