//! Tests of the sample servers.
//! Not here: anything else.
