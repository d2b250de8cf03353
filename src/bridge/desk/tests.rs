//! The desk: ids renumbered, answers found again, calls that end with their child.
//! Not here: the desk itself (`desk`).
