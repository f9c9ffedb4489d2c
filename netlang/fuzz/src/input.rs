//! Inputs: what the fuzzer's bytes stand for.

/// A network file, a lock file and a target.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The network file.
    pub text: &'a str,
    /// The lock file.
    pub lock: &'a str,
    /// A target of the command line.
    pub target: &'a str,
}

/// Elements of all arrays of a file, multiplied: more are answered, too, but slowly, and say nothing new.
const MOST_ELEMENTS: u64 = 20_000;

impl<'a> Input<'a> {
    /// Splits at NUL bytes; what is no UTF-8 ends the input.
    pub fn split(data: &'a [u8]) -> Input<'a> {
        let text = match std::str::from_utf8(data) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut parts = text.splitn(3, '\0');
        let mut part = || parts.next().unwrap_or_default();
        Input { text: part(), lock: part(), target: part() }
    }

    /// Whether the file could have so many elements that it only takes time.
    pub fn is_large(&self) -> bool {
        let ends = self.text.split("..").skip(1);
        let product = ends.fold(1u64, |product, rest| {
            let rest = rest.trim_start();
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            product
                .saturating_mul(rest[..digits].parse::<u64>().unwrap_or(if digits > 0 { u64::MAX } else { 8 }).max(1))
        });
        product > MOST_ELEMENTS && self.text.split("..").count() < 40
    }
}

#[cfg(test)]
mod tests {
    use super::Input;

    #[test]
    fn an_input_is_a_file_a_lock_and_a_target() {
        let input = Input::split(b"lan a\0version 1\0p.web[*]");
        assert_eq!((input.text, input.lock, input.target), ("lan a", "version 1", "p.web[*]"));
        let input = Input::split(b"lan a\xffb");
        assert_eq!((input.text, input.lock, input.target), ("lan a", "", ""));
    }

    #[test]
    fn arrays_that_only_take_time_are_left_out() {
        assert!(Input::split(b"vm a[0..1000000]").is_large());
        assert!(Input::split(b"site a[0..300]\nlan b[0..300]").is_large());
        assert!(!Input::split(b"vm a[0..300]\nvm b[0..n]").is_large());
    }
}
