"""What coordinator and nodes say to each other, and its form on Flower."""
