"""Where samples come from: one benchmark a file, built as TFDS builders without TensorFlow."""
