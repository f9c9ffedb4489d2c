//! What `gphoto2` prints, read. The text is the program's own; these functions are for `fleet exec` as for a bare guest.

/// A file that `gphoto2 --list-files` lists: `#1     DSC_0001.JPG               rd   292 KB image/jpeg 1795953600`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// By which it is fetched.
    pub number: usize,
    /// Its name.
    pub name: String,
}

/// Camera and port of each line of `gphoto2 --auto-detect`.
pub fn detected(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let columns = lines.filter_map(|line| line.trim_end().rsplit_once(' '));
    columns.map(|(model, port)| (model.trim().to_owned(), port.to_owned())).collect()
}

/// The files of `gphoto2 --list-files`.
pub fn listed(text: &str) -> Vec<Listed> {
    let lines = text.lines().filter_map(|line| line.strip_prefix('#'));
    let words = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some(Listed { number: words.next()?.parse().ok()?, name: words.next()?.to_owned() })
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_tables_are_read() {
        let text = "Model                          Port            \n---------------------\nNikon DSC D7000 (PTP mode)     usb:002,003     \n";
        assert_eq!(detected(text), [("Nikon DSC D7000 (PTP mode)".to_owned(), "usb:002,003".to_owned())]);
        assert_eq!(detected("Model  Port\n-----\n"), []);
        let text = "There is 1 file in folder '/store_00010001/100NIKON'.\n#1     DSC_0001.JPG               rd   292 KB image/jpeg\n";
        assert_eq!(listed(text), [Listed { number: 1, name: "DSC_0001.JPG".to_owned() }]);
    }
}
