"""What the services speak: gRPC schemas and what `make protos` makes of them (``_pb2``)."""
