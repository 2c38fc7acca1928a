//! Cuts a failing list down.

/// The most lists to try.
const TRIED: usize = 600;

/// A shorter list that still fails: no part of a halving size can be left out.
pub(crate) fn shrunk<T: Clone>(mut all: Vec<T>, fails: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut tried = 0;
    let mut size = all.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut is_shorter = false;
        while at < all.len() {
            let end = all.len().min(at + size);
            let rest = [all.get(..at), all.get(end..)].into_iter().flatten();
            let rest: Vec<_> = rest.flatten().cloned().collect();
            tried += 1;
            if tried > TRIED {
                return all;
            }
            if fails(&rest) {
                all = rest;
                is_shorter = true;
            } else {
                at = end;
            }
        }
        if size == 1 && !is_shorter {
            break;
        }
        size = if size == 1 { 1 } else { size / 2 };
    }
    all
}

#[test]
fn what_does_not_matter_is_left_out() {
    let fails = |list: &[u32]| list.contains(&17) && list.contains(&80);
    assert_eq!(shrunk((0..100).collect(), fails), [17, 80]);
}
