//! Options of a kernel: fragments of a `.config`, put together, and looked for in what came out.
//!
//! The kernel's own configuration tool drops an option without a word when it does not exist or when another one that it
//! needs is missing. So every option that was asked for is looked for in the result.

use std::{collections::BTreeMap, fs, path::Path};

use crate::ImageError;

/// A part of a kernel's configuration.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// For messages: its file.
    pub origin: String,
    /// `CONFIG_NAME=value` and `# CONFIG_NAME is not set`, one a line; other lines with `#` are comments.
    pub text: String,
}

/// Options by name; `None` is "not set".
pub(super) type Options = BTreeMap<String, Option<String>>;

impl Fragment {
    /// Reads one from a file and checks that every line is understood.
    pub(crate) fn load(path: &Path) -> Result<Self, ImageError> {
        let text = fs::read_to_string(path).map_err(|error| ImageError::io("reading", path, error))?;
        let fragment = Self { origin: path.display().to_string(), text };
        merge(&[&fragment])?;
        Ok(fragment)
    }
}

/// All options of these fragments; where two speak of one, the later counts.
pub(super) fn merge(fragments: &[&Fragment]) -> Result<Options, ImageError> {
    let mut options = Options::new();
    for fragment in fragments {
        for (number, line) in fragment.text.lines().enumerate() {
            match parse(line.trim()) {
                Ok(Some((name, value))) => options.insert(name.to_owned(), value.map(str::to_owned)),
                Ok(None) => None,
                Err(problem) => {
                    let problem = format!("line {}: {problem}", number + 1);
                    return Err(ImageError::Recipe { recipe: fragment.origin.clone(), problem });
                }
            };
        }
    }
    Ok(options)
}

type Line<'a> = Option<(&'a str, Option<&'a str>)>;

fn parse(line: &str) -> Result<Line<'_>, String> {
    let is_name = |name: &str| {
        name.strip_prefix("CONFIG_")
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    };
    if let Some(comment) = line.strip_prefix('#') {
        let name = comment.trim().strip_suffix(" is not set").map(str::trim);
        return Ok(name.filter(|name| is_name(name)).map(|name| (name, None)));
    }
    if line.is_empty() {
        return Ok(None);
    }
    match line.split_once('=') {
        Some((name, "n")) if is_name(name) => Ok(Some((name, None))),
        Some((name, "m")) if is_name(name) => Err(format!("{name}=m: a tiny kernel loads no modules, write {name}=y")),
        Some((name, value)) if is_name(name) && !value.is_empty() => Ok(Some((name, Some(value)))),
        _ => Err(format!("'{line}' is neither CONFIG_NAME=value nor a comment")),
    }
}

/// As the kernel's tool takes it.
pub(super) fn text(options: &Options) -> String {
    let line = |(name, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{name}={value}\n"),
        None => format!("# {name} is not set\n"),
    };
    options.iter().map(line).collect()
}

/// Most processors that a kernel with this configuration uses: without `CONFIG_SMP` one (lib/Kconfig and arch/*/Kconfig of
/// the sources, `NR_CPUS`).
pub(super) fn processors(config: &str) -> u32 {
    let value = |wanted: &str| config.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix('='));
    match value("CONFIG_SMP") {
        Some("y") => value("CONFIG_NR_CPUS").and_then(|count| count.trim().parse().ok()).unwrap_or(1).max(1),
        _ => 1,
    }
}

/// What was asked for and is not in the result, as it was asked for.
pub(super) fn not_taken(asked: &Options, result: &str) -> Vec<String> {
    let result: BTreeMap<&str, &str> =
        result.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    let differs = |(name, value): &(&String, &Option<String>)| result.get(name.as_str()).copied() != value.as_deref();
    asked.iter().filter(differs).map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("n"))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn fragment(text: &str) -> Fragment {
        Fragment { origin: "my.config".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_kernel_has_as_many_processors_as_its_configuration_says() {
        assert_eq!(processors("CONFIG_X86=y\n# CONFIG_SMP is not set\nCONFIG_NR_CPUS=1\n"), 1);
        assert_eq!(processors("CONFIG_SMP=y\nCONFIG_NR_CPUS_RANGE_END=512\nCONFIG_NR_CPUS=64\n"), 64);
        assert_eq!(processors(""), 1);
    }

    #[test]
    fn the_later_fragment_counts() {
        let one = fragment("# why\nCONFIG_A=y\nCONFIG_B=\"x y\"\n\n# CONFIG_C is not set\n");
        let other = fragment("CONFIG_C=y\n# CONFIG_A is not set\nCONFIG_D=n");
        let merged = merge(&[&one, &other]).unwrap();
        assert_eq!(text(&merged), "# CONFIG_A is not set\nCONFIG_B=\"x y\"\nCONFIG_C=y\n# CONFIG_D is not set\n");
    }

    #[test]
    fn a_wrong_line_is_named_with_its_place() {
        for (text, words) in
            [("\nIPV6=y", "my.config: line 2"), ("CONFIG_TUN=m", "write CONFIG_TUN=y"), ("CONFIG_=y", "CONFIG_=y")]
        {
            let error = merge(&[&fragment(text)]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_the_sources_did_not_take_is_found() {
        let asked =
            merge(&[&fragment("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=14\n# CONFIG_D is not set\n# CONFIG_E is not set")]);
        let result = "# CONFIG_B is not set\nCONFIG_A=y\nCONFIG_C=15\nCONFIG_D=y\n";
        assert_eq!(not_taken(&asked.unwrap(), result), ["CONFIG_B=y", "CONFIG_C=14", "CONFIG_D=n"]);
    }
}
