//! How deep a text of JSON nests, told before anything is built from it.
//! Not here: the bound (`conf::Limits`) and what is answered to a text beyond it (`message`).

/// Whether brackets nest deeper than `max`. Counting all of them is a cheap upper bound that nearly always decides.
pub(super) fn deeper_than(body: &[u8], max: usize) -> bool {
    if memchr::memchr2_iter(b'[', b'{', body).take(max + 1).count() <= max {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in body {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            return true;
        }
    }
    false
}
