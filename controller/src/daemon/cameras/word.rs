//! Which camera a user's word means. Pure.
//!
//! A word is a serial number, `vid:pid`, identity, port or model; with `HOST:` before it, only of that host. What a camera
//! is called exactly wins over a part of its name: `D7000` finds a `NIKON DSC D7000` when nothing has that very name.
//! Of a port its end is enough: `1.4` of `0000:00:14.0/1.4`.

use fleet_proto::v1::Camera;
use fleet_usb::lease::CameraId;

use super::picture::{Picture, word as state_word};

/// The cameras that a word means, in their order.
pub fn find(picture: &Picture, lent: impl Iterator<Item = CameraId>, word: &str) -> Vec<CameraId> {
    let word = word.trim();
    // Lent cameras of hosts that have not said anything yet are known by their identity.
    let unseen = lent.filter(|id| picture.camera(id).is_none());
    let unseen: Vec<(CameraId, Camera)> = unseen.map(|id| (id.clone(), nameless(&id))).collect();
    let mut all: Vec<(CameraId, &Camera)> = picture.cameras().collect();
    all.extend(unseen.iter().map(|(id, camera)| (id.clone(), camera)));
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let by = |is: &dyn Fn(&Camera, &str) -> bool| -> Vec<CameraId> {
        let means = |(id, camera): &(CameraId, &Camera)| {
            let of_host = word.strip_prefix(id.host.as_str()).and_then(|rest| rest.strip_prefix(':'));
            is(camera, word) || of_host.is_some_and(|rest| is(camera, rest))
        };
        all.iter().filter(|found| means(found)).map(|(id, _)| id.clone()).collect()
    };
    let exact = by(&is_called);
    if exact.is_empty() { by(&has_in_its_name) } else { exact }
}

fn is_called(camera: &Camera, word: &str) -> bool {
    if word.is_empty() {
        return false;
    }
    let end = camera.port.strip_suffix(word);
    camera.id == word
        || camera.serial == word
        || camera.model == word
        || camera.usb_id.eq_ignore_ascii_case(word)
        || end.is_some_and(|before| before.is_empty() || before.ends_with(['/', ':']))
}

/// One of the words of its name, in any case.
fn has_in_its_name(camera: &Camera, word: &str) -> bool {
    let whole = format!("{} {}", camera.manufacturer, camera.model);
    let is = |name: &str| name.eq_ignore_ascii_case(word);
    !word.is_empty() && (is(&camera.model) || is(whole.trim()) || whole.split_whitespace().any(is))
}

/// What the identity alone says of a camera.
fn nameless(id: &CameraId) -> Camera {
    // "04b0:3012345"; one that is known by its port has an @ there.
    let parts = id.camera.split_once(':').filter(|(vendor, _)| !vendor.contains('@'));
    let serial = parts.map(|(_, serial)| serial.to_owned()).unwrap_or_default();
    Camera { host: id.host.clone(), id: id.camera.clone(), serial, ..Camera::default() }
}

/// What a user should know of a camera on a port of its host that goes to a VM of `vm_host`: an exporter carries no
/// isochronous transfers, which most video devices send their pictures by.
pub fn far_video(picture: &Picture, id: &CameraId, vm_host: &str) -> Option<String> {
    let is_video = picture.camera(id).is_some_and(|camera| camera.persona == "uvc" && !camera.redirected);
    (is_video && id.host != vm_host).then(|| {
        format!(
            "most video cameras send no video to a VM of another host: have the VM on {} (`place` in its file) if none comes",
            id.host
        )
    })
}

/// A camera in a few words: "NIKON DSC D7000 3012345 on h1".
pub fn called(picture: &Picture, id: &CameraId) -> String {
    let camera = picture.camera(id).cloned().unwrap_or_else(|| nameless(id));
    let name = if camera.model.is_empty() { &camera.usb_id } else { &camera.model };
    let name = [name.as_str(), camera.serial.as_str()].into_iter().filter(|part| !part.is_empty());
    let name = name.collect::<Vec<_>>().join(" ");
    format!("{} on {}", if name.is_empty() { id.camera.as_str() } else { &name }, id.host)
}

/// A camera as one of several, by what tells them apart: "h1:04b0:3012345  NIKON DSC D7000, port 00:14.0/1.4, available".
pub fn candidate(picture: &Picture, id: &CameraId, holder: Option<&str>) -> String {
    let camera = picture.camera(id).cloned().unwrap_or_else(|| nameless(id));
    let port = short_port(&camera.port);
    let state = holder.map_or_else(|| state_word(camera.state()).to_owned(), |holder| format!("lent to {holder}"));
    let port = if port.is_empty() { String::new() } else { format!("port {port}") };
    let parts = [camera.model.as_str(), port.as_str(), state.as_str()].into_iter().filter(|part| !part.is_empty());
    format!("{}:{}  {}", id.host, id.camera, parts.collect::<Vec<_>>().join(", "))
}

/// A port without the domain of PCI that nearly every machine has only one of.
pub fn short_port(port: &str) -> &str {
    port.strip_prefix("0000:").unwrap_or(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_proto::v1::CamerasReply;

    fn camera(serial: &str, model: &str, port: &str) -> Camera {
        Camera {
            id: format!("04b0:{serial}"),
            usb_id: "04b0:0428".into(),
            serial: serial.into(),
            manufacturer: "NIKON".into(),
            model: model.into(),
            port: port.into(),
            ..Camera::default()
        }
    }

    #[test]
    fn a_video_camera_on_a_port_of_another_host_is_told_of() {
        let video = |redirected| Camera { persona: "uvc".into(), redirected, ..camera("7", "C920", "0000:00:14.0/2") };
        let note = |camera, vm_host| {
            let mut picture = Picture::default();
            picture.told("h1", CamerasReply { cameras: vec![camera], leases: vec![] });
            far_video(&picture, &CameraId { host: "h1".into(), camera: "04b0:7".into() }, vm_host)
        };
        assert!(note(video(false), "h2").is_some_and(|note| note.contains("h1")));
        assert_eq!(note(video(false), "h1"), None);
        assert_eq!(note(video(true), "h2"), None);
        assert_eq!(note(camera("7", "NIKON DSC D7000", ""), "h2"), None);
    }

    fn picture() -> Picture {
        let mut picture = Picture::default();
        let of_h1 = vec![
            camera("301", "NIKON DSC D7000", "0000:00:14.0/1.4"),
            camera("302", "NIKON DSC D7000", "0000:00:14.0/11.4"),
        ];
        picture.told("h1", CamerasReply { cameras: of_h1, leases: vec![] });
        let of_h2 = vec![camera("501", "NIKON DSC D5000", "0000:00:14.0/1.4")];
        picture.told("h2", CamerasReply { cameras: of_h2, leases: vec![] });
        picture
    }

    fn found(word: &str) -> Vec<String> {
        let lent = CameraId { host: "h9".into(), camera: "04a9:77".into() };
        find(&picture(), [lent].into_iter(), word).into_iter().map(|id| format!("{}:{}", id.host, id.camera)).collect()
    }

    #[test]
    fn a_camera_is_found_by_all_that_it_is_called() {
        for word in ["301", "04b0:301", "h1:301", "h1:04b0:301", "h1:0000:00:14.0/1.4", "h1:00:14.0/1.4", "h1:1.4"] {
            assert_eq!(found(word), ["h1:04b0:301"], "{word}");
        }
        assert_eq!(found("D5000"), ["h2:04b0:501"]);
        assert_eq!(found("nikon dsc d5000"), ["h2:04b0:501"]);
        assert_eq!(found("h9:77"), ["h9:04a9:77"], "lent, of a host that has said nothing");
    }

    #[test]
    fn a_word_that_several_answer_to_gives_them_all_and_nonsense_none() {
        assert_eq!(found("d7000"), ["h1:04b0:301", "h1:04b0:302"]);
        assert_eq!(found("1.4"), ["h1:04b0:301", "h2:04b0:501"], "11.4 is another port");
        assert_eq!(found("04B0:0428").len(), 3);
        for word in ["", "4", "h1:", "h2:301", "h1", ":"] {
            assert_eq!(found(word), Vec::<String>::new(), "{word}");
        }
    }

    #[test]
    fn candidates_are_told_apart() {
        let id = CameraId { host: "h1".into(), camera: "04b0:301".into() };
        assert_eq!(candidate(&picture(), &id, None), "h1:04b0:301  NIKON DSC D7000, port 00:14.0/1.4, ?");
        assert!(candidate(&picture(), &id, Some("cams.v")).ends_with("lent to cams.v"));
        assert_eq!(called(&picture(), &id), "NIKON DSC D7000 301 on h1");
    }
}
