//! Putting a message together from the packets that carry it.

use std::borrow::Cow;

use super::KEPT_MAX;

/// Shortest overlap that means "sent again"; a shorter one may be chance.
const OVERLAP_MIN: usize = 16;

/// What became of what was kept and what followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined<'a> {
    /// Nothing new: it was kept already, and still is.
    Again,
    /// Both, up to [`KEPT_MAX`]. Borrowed if nothing was kept.
    Bytes(Cow<'a, [u8]>),
}

/// Takes what was kept, with what follows behind it.
///
/// Samples carry no sequence numbers, so that a segment sent again is known by its bytes.
pub(super) fn join<'a>(kept: &mut Vec<u8>, new: &'a [u8]) -> Joined<'a> {
    let long = kept.len().min(new.len()) >= OVERLAP_MIN;
    if long && new.len() > kept.len() && new.starts_with(kept) {
        // Sent again, with more.
        kept.clear();
    }
    if kept.is_empty() {
        *kept = Vec::new();
        return Joined::Bytes(Cow::Borrowed(new));
    }
    if long && (kept.ends_with(new) || new.ends_with(kept)) {
        return Joined::Again;
    }
    let mut joined = std::mem::take(kept);
    let room = KEPT_MAX.saturating_sub(joined.len());
    joined.extend_from_slice(new.get(..room).unwrap_or(new));
    Joined::Bytes(Cow::Owned(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kept: &[u8], new: &[u8], expected: Option<&[u8]>) {
        let mut holder = kept.to_vec();
        match (join(&mut holder, new), expected) {
            (Joined::Again, None) => assert_eq!(holder, kept),
            (Joined::Bytes(bytes), Some(expected)) => {
                assert_eq!(bytes, expected);
                assert!(holder.is_empty());
            }
            (joined, _) => panic!("{joined:?}"),
        }
    }

    #[test]
    fn what_was_sent_again_is_left_out() {
        let (first, second) = (&b"the first segment, then "[..], &b"the second segment"[..]);
        let both = [first, second].concat();
        check(b"", first, Some(first));
        check(first, second, Some(&both));
        check(first, first, None);
        check(&both, second, None);
        check(first, &both, Some(&both));
        // Too short to tell.
        check(b"aa", b"a", Some(b"aaa"));
        // Only the end of the first was kept.
        check(&first[5..], first, None);
    }

    #[test]
    fn bounded() {
        let mut kept = vec![1; KEPT_MAX - 10];
        let Joined::Bytes(joined) = join(&mut kept, &[2; 1500]) else { panic!("it is new") };
        assert_eq!(joined.len(), KEPT_MAX);
    }
}
