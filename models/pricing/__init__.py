"""The science of prices: demand, elasticities, rules, the optimiser, the check of its claim, and price experiments."""
