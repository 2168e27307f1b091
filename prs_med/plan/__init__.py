"""What training would cost: memory, time, traffic, money, before anything is rented."""
