"""Records from a folder of images: what an imagefolder's images, metadata and units are."""
