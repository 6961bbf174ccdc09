"""What several tests use: the toy family, synthetic data, fakes of the outside world."""
