//! Evidence: Merkle trees, signatures, proofs, the ledger, verifiers.
