"""How fast it is, measured on a real Kafka beside others that do the same work: `make bench`, `bench/README.md`."""
