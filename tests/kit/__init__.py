"""What several tests use: the toy family, made-up data, fakes of the outside world."""
