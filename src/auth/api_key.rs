//! Static API keys, found by digest and compared in constant time.
//! Not here: where a key comes from in a request (`credentials`) or in a file (`conf`).

use std::collections::HashMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq as _;

use super::{Caller, CallerKind};
use crate::conf::{self, KeyMaterial};

type Digest = [u8; 32];

/// The configured keys. Only digests are kept: a look-up's timing depends on the digest of what came, which says
/// nothing about the keys there are.
#[derive(Debug)]
pub(super) struct ApiKeys(HashMap<u64, Vec<(Digest, Arc<Caller>)>>);

impl ApiKeys {
    pub(super) fn new(keys: &[conf::ApiKey]) -> Self {
        let mut table: HashMap<u64, Vec<(Digest, Arc<Caller>)>> = HashMap::new();
        for key in keys {
            let digest = match &key.key {
                KeyMaterial::Plain(key) => digest_of(key.expose()),
                KeyMaterial::Sha256(digest) => *digest,
            };
            let caller = Caller::new(CallerKind::ApiKey, None, &key.name, &key.grant);
            table.entry(head(&digest)).or_default().push((digest, Arc::new(caller)));
        }
        Self(table)
    }

    pub(super) fn find(&self, key: &str) -> Option<Arc<Caller>> {
        if self.0.is_empty() {
            return None;
        }
        let digest = digest_of(key);
        let candidates = self.0.get(&head(&digest))?;
        let found = candidates.iter().find(|(known, _)| bool::from(known.ct_eq(&digest)));
        found.map(|(_, caller)| Arc::clone(caller))
    }
}

fn digest_of(key: &str) -> Digest {
    let mut bytes = [0u8; 32];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}

fn head(digest: &Digest) -> u64 {
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
