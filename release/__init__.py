"""What a release is made of: locked dependencies, third-party licences, the bill of materials; not installed."""
