"""The method that releases noisy prototypes of each class: weighted centres with a covariance, in a base's latents."""
