"""Apache Kafka, through aiokafka."""
