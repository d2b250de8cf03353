//! Static API keys, found by digest and compared in constant time.
//! Not here: where a key comes from in a request (`credentials`) or in a file (`conf`).

use std::collections::HashMap;
use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use super::table::{Digest, carry_on, digest_of, end_unless_kept};
use super::{Caller, CallerKind};
use crate::conf::{self, KeyMaterial};

/// The configured keys. Only digests are kept: a look-up's timing depends on the digest of what came, which says
/// nothing about the keys there are.
#[derive(Debug)]
pub(super) struct ApiKeys(HashMap<u64, Vec<(Digest, Arc<Caller>)>>);

impl ApiKeys {
    /// Callers whose key is configured as it was before go on with it.
    pub(super) fn new(keys: &[conf::ApiKey], before: Option<&Self>) -> Self {
        let mut table: HashMap<u64, Vec<(Digest, Arc<Caller>)>> = HashMap::with_capacity(keys.len());
        for key in keys {
            let digest = match &key.key {
                KeyMaterial::Plain(key) => digest_of(key.expose()),
                KeyMaterial::Sha256(digest) => *digest,
            };
            let mut caller = Caller::new(CallerKind::ApiKey, None, &key.name, &key.grant);
            caller.expires = key.expires;
            carry_on(&mut caller, before.and_then(|before| before.by_digest(&digest)));
            table.entry(head(&digest)).or_default().push((digest, Arc::new(caller)));
        }
        Self(table)
    }

    /// The holder of the key whose SHA-256 is `digest`, expired or not.
    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<Caller>> {
        self.by_digest(digest).map(Arc::clone)
    }

    /// Ends callers that `next` does not have in the same form.
    pub(super) fn end_those_missing_in(&self, next: &Self) {
        for (digest, caller) in self.0.values().flatten() {
            end_unless_kept(caller, next.by_digest(digest));
        }
    }

    fn by_digest(&self, digest: &Digest) -> Option<&Arc<Caller>> {
        let candidates = self.0.get(&head(digest))?;
        let found = candidates.iter().find(|(known, _)| bool::from(known.ct_eq(digest)));
        found.map(|(_, caller)| caller)
    }
}

fn head(digest: &Digest) -> u64 {
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
