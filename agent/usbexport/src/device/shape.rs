//! What a device looks like to a guest now: its descriptors, the configuration and the settings in use.

use std::collections::BTreeMap;

use fleet_usb::descriptors::{Descriptors, EndpointInfo, InterfaceSetting};
use fleet_usbredir::{DeviceConnect, Endpoint, EpInfo, EpType, InterfaceClass, InterfaceInfo, Packet, Speed};

/// A device's shape.
#[derive(Debug)]
pub(crate) struct Shape {
    descriptors: Descriptors,
    speed: Speed,
    configuration: u8,
    /// Settings other than 0, by interface.
    alternates: BTreeMap<u8, u8>,
}

impl Shape {
    /// Of a device with these descriptors and the configuration in use.
    pub(crate) fn new(descriptors: Descriptors, speed: Speed, configuration: u8) -> Self {
        Self { descriptors, speed, configuration, alternates: BTreeMap::new() }
    }

    /// Whether it has this configuration.
    pub(crate) fn has(&self, configuration: u8) -> bool {
        self.descriptors.configurations.iter().any(|found| found.value == configuration)
    }

    /// Another configuration is in use.
    pub(crate) fn configure(&mut self, configuration: u8) {
        self.configuration = configuration;
        self.alternates.clear();
    }

    /// Another setting of an interface is in use.
    pub(crate) fn set_alternate(&mut self, interface: u8, alt: u8) {
        self.alternates.insert(interface, alt);
    }

    /// All interfaces are back in their first settings; whether one was in another.
    pub(crate) fn reset(&mut self) -> bool {
        !std::mem::take(&mut self.alternates).is_empty()
    }

    /// The configuration in use.
    pub(crate) fn configuration(&self) -> u8 {
        self.configuration
    }

    /// The interfaces of a configuration.
    pub(crate) fn interfaces_of(&self, configuration: u8) -> Vec<u8> {
        let found = self.descriptors.configurations.iter().find(|found| found.value == configuration);
        let settings = found.into_iter().flat_map(|found| &found.interfaces);
        let mut numbers: Vec<u8> = settings.map(|setting| setting.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// An endpoint that is there now, and its interface.
    pub(crate) fn endpoint(&self, address: u8) -> Option<(u8, EndpointInfo)> {
        self.in_use().find_map(|setting| {
            let found = setting.endpoints.iter().find(|endpoint| endpoint.address == address)?;
            Some((setting.number, *found))
        })
    }

    pub(crate) fn settings(&self) -> impl Iterator<Item = &InterfaceSetting> {
        let in_use = self.descriptors.configurations.iter().find(|found| found.value == self.configuration);
        in_use.into_iter().flat_map(|configuration| &configuration.interfaces)
    }

    /// The setting in use of each interface.
    fn in_use(&self) -> impl Iterator<Item = &InterfaceSetting> {
        self.settings().filter(|setting| setting.alternate == self.alternate(setting.number))
    }

    pub(crate) fn alternate(&self, interface: u8) -> u8 {
        self.alternates.get(&interface).copied().unwrap_or(0)
    }

    pub(crate) fn ep_info(&self) -> Packet {
        let mut endpoints = [Endpoint::NONE; 32];
        let mut set = |address: u8, endpoint: Endpoint| {
            if let Some(place) = endpoints.get_mut(EpInfo::index(address)) {
                *place = endpoint;
            }
        };
        for setting in self.in_use() {
            for found in &setting.endpoints {
                let kind = match found.kind {
                    0 => EpType::Control,
                    1 => EpType::Iso,
                    2 => EpType::Bulk,
                    _ => EpType::Interrupt,
                };
                let interval = found.interval;
                set(
                    found.address,
                    Endpoint { kind, interval, interface: setting.number, max_packet: found.max_packet },
                );
            }
        }
        for address in [0, 0x80] {
            set(address, Endpoint { kind: EpType::Control, interval: 0, interface: 0, max_packet: 64 });
        }
        Packet::EpInfo(Box::new(EpInfo { endpoints }))
    }

    pub(crate) fn interface_info(&self) -> Packet {
        let row = |setting: &InterfaceSetting| InterfaceClass {
            number: setting.number,
            class: setting.class.class,
            subclass: setting.class.subclass,
            protocol: setting.class.protocol,
        };
        let interfaces = self.in_use().map(row).take(32).collect();
        Packet::InterfaceInfo(InterfaceInfo { interfaces })
    }

    /// Whether there is such an endpoint of this kind (its number in descriptors) that can carry something.
    pub(crate) fn is(&self, address: u8, kind: u8) -> bool {
        // One without a packet size can carry nothing.
        self.endpoint(address).is_some_and(|(_, found)| found.kind == kind && found.max_packet > 0)
    }

    /// The device itself.
    pub(crate) fn device_connect(&self) -> Packet {
        let device = &self.descriptors;
        Packet::DeviceConnect(DeviceConnect {
            speed: self.speed,
            class: device.class.class,
            subclass: device.class.subclass,
            protocol: device.class.protocol,
            vendor: device.vendor,
            product: device.product,
            version: device.release,
        })
    }
}
