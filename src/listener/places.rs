//! How many connections there are, in all and of each client address, and the bounds of both.
//! Not here: requests and their rates (`limit`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Places for connections, shared by all listeners.
#[derive(Debug)]
pub(super) struct Places {
    all_max: usize,
    address_max: usize,
    all: AtomicUsize,
    reserved: AtomicUsize,
    /// One entry for each address that has a connection, so no more than there are connections.
    addresses: Mutex<HashMap<Origin, usize>>,
}

/// Where a client is: one IPv4 address, or the /64 that an IPv6 client may choose its addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Origin(u64, bool);

impl Origin {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(u64::from(address.to_bits()), false),
            // The upper half: the network.
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64, true),
        }
    }
}

impl Places {
    pub(super) fn new(all_max: usize, address_max: usize) -> Arc<Self> {
        Arc::new(Self {
            all_max,
            address_max,
            all: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            addresses: Mutex::default(),
        })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// A place among all connections, if there is one left.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let more = |all: usize| (all < self.all_max).then_some(all + 1);
        self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place { places: Arc::clone(self), origin: None, is_reserved: false })
    }

    /// One of the places beyond, if there is one left.
    pub(super) fn enter_reserved(self: &Arc<Self>) -> Option<Place> {
        let more = |reserved: usize| (reserved < RESERVED).then_some(reserved + 1);
        self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Place { places: Arc::clone(self), origin: None, is_reserved: true })
    }
}

/// Places beyond all others, so that a gateway with as many connections as it may have can still be asked how it is.
const RESERVED: usize = 16;

/// A connection's place, held until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    origin: Option<Origin>,
    is_reserved: bool,
}

impl Place {
    /// Whether it is one beyond all others.
    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    /// Makes it one of the places that `address` may have. False if it has as many as it may.
    pub(super) fn take_for(&mut self, address: IpAddr) -> bool {
        if self.origin.is_some() {
            return true;
        }
        let origin = Origin::of(address);
        let mut addresses = self.places.addresses.lock();
        let count = addresses.entry(origin).or_default();
        let free = *count < self.places.address_max;
        if free {
            *count += 1;
            self.origin = Some(origin);
        }
        free
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = if self.is_reserved { &self.places.reserved } else { &self.places.all };
        taken.fetch_sub(1, Ordering::Relaxed);
        let Some(origin) = self.origin else { return };
        let mut addresses = self.places.addresses.lock();
        if let Some(count) = addresses.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&origin);
            }
        }
        // A burst of addresses does not keep its memory.
        if addresses.capacity() > 1024 && addresses.len() * 4 < addresses.capacity() {
            let len = addresses.len() * 2;
            addresses.shrink_to(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(places: &Arc<Places>, address: &str) -> Option<Place> {
        let mut place = places.enter()?;
        place.take_for(address.parse().unwrap()).then_some(place)
    }

    #[test]
    fn places_are_bounded_in_all_and_for_each_address() {
        let places = Places::new(4, 2);
        let first = taken(&places, "10.0.0.1").unwrap();
        let _second = taken(&places, "::ffff:10.0.0.1").unwrap();
        assert!(taken(&places, "10.0.0.1").is_none());
        let _other = taken(&places, "10.0.0.2").unwrap();
        let _last = taken(&places, "2001:db8::1").unwrap();
        assert!(taken(&places, "10.0.0.3").is_none());
        drop(first);
        assert!(taken(&places, "10.0.0.1").is_some());
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_nothing_is_left_behind() {
        let places = Places::new(10, 1);
        let held = taken(&places, "2001:db8::1").unwrap();
        assert!(taken(&places, "2001:db8::2").is_none());
        assert!(taken(&places, "2001:db8:0:1::1").is_some());
        drop(held);
        assert_eq!((places.addresses.lock().len(), places.all.load(Ordering::Relaxed)), (0, 0));
    }
}
