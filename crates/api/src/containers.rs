//! What the containers of a pod come to together.

/// What containers come to as a pod runs them: those that stay add up; an init container has all sidecars
/// before it beside it, and where that is more at any time, it counts. `inits` says of each whether it is a
/// sidecar.
pub fn together<T: Clone + Default>(
    mains: impl IntoIterator<Item = T>,
    inits: impl IntoIterator<Item = (bool, T)>,
    add: impl Fn(&mut T, &T),
    at_least: impl Fn(&mut T, &T),
) -> T {
    let (mut all, mut sidecars, mut peak) = (T::default(), T::default(), T::default());
    mains.into_iter().for_each(|main| add(&mut all, &main));
    for (sidecar, mut need) in inits {
        if sidecar {
            add(&mut all, &need);
            add(&mut sidecars, &need);
            need.clone_from(&sidecars);
        } else {
            add(&mut need, &sidecars);
        }
        at_least(&mut peak, &need);
    }
    at_least(&mut all, &peak);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_stay() {
        let sum = |mains: &[i64], inits: &[(bool, i64)]| {
            together(mains.iter().copied(), inits.iter().copied(), |a, b| *a += b, |a, b| *a = (*a).max(*b))
        };
        assert_eq!(sum(&[1, 2], &[]), 3);
        assert_eq!(sum(&[1], &[(false, 5), (false, 4)]), 5);
        assert_eq!(sum(&[1], &[(true, 2), (false, 5)]), 7);
        assert_eq!(sum(&[1], &[(false, 5), (true, 2)]), 5);
        assert_eq!(sum(&[9], &[(true, 2), (false, 5)]), 11);
    }
}
