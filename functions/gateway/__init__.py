"""The gateway function: JSON over HTTP on one side, protobuf over gRPC to booking on the other."""
