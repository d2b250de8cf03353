//! Tests of reading, expanding and decoding.
//! Not here: tests of what catalogs and configurations may say.
