"""Images that are drawn and public: for pretraining, for C, for features."""
