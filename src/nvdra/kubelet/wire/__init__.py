"""The wire: HTTP/2 and protocol buffers as kubelet's gRPC uses them, without a socket.

Pure: bytes in, values and bytes out. What connects it to sockets is `nvdra.kubelet.transport`.
"""
