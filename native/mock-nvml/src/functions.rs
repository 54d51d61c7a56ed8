//! Every exported function. `exports` implements the first list. The second list returns `NOT_SUPPORTED`, so that tools
//! which call more functions see a driver without support for them.

macro_rules! functions {
    (answered { $($answered:ident)* } declined { $($declined:ident)* }) => {
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($answered,)* $($declined,)* }

        impl Function {
            #[cfg(test)]
            pub const ALL: &[Function] = &[$(Function::$answered,)* $(Function::$declined,)*];
            /// Symbol names, in the order of the numbers.
            pub const NAMES: &[&str] = &[$(stringify!($answered),)* $(stringify!($declined),)*];
        }

        $(
            /// Declines. The first argument is a device in nearly all of them; it tells whether that GPU is lost.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $declined(first: usize) -> u32 {
                crate::exports::decline(Function::$declined, first)
            }
        )*
    };
}

impl Function {
    pub fn name(self) -> &'static str {
        Function::NAMES[self as usize]
    }
}

functions! {
    answered {
        nvmlInit nvmlInit_v2 nvmlInitWithFlags nvmlShutdown nvmlErrorString
        nvmlSystemGetDriverVersion nvmlSystemGetNVMLVersion
        nvmlSystemGetCudaDriverVersion nvmlSystemGetCudaDriverVersion_v2
        nvmlSystemGetDriverBranch nvmlSystemGetTopologyGpuSet
        nvmlDeviceGetCount nvmlDeviceGetCount_v2
        nvmlDeviceGetHandleByIndex nvmlDeviceGetHandleByIndex_v2
        nvmlDeviceGetHandleByUUID nvmlDeviceGetHandleByUUIDV nvmlDeviceGetHandleBySerial
        nvmlDeviceGetHandleByPciBusId nvmlDeviceGetHandleByPciBusId_v2
        nvmlDeviceGetIndex nvmlDeviceGetName nvmlDeviceGetUUID nvmlDeviceGetMinorNumber nvmlDeviceGetSerial
        nvmlDeviceGetBoardId nvmlDeviceGetMultiGpuBoard nvmlDeviceOnSameBoard nvmlDeviceGetBoardPartNumber
        nvmlDeviceGetVbiosVersion nvmlDeviceGetModuleId nvmlDeviceGetNumGpuCores nvmlDeviceGetMemoryBusWidth
        nvmlDeviceGetArchitecture nvmlDeviceGetBrand nvmlDeviceGetCudaComputeCapability
        nvmlDeviceGetAddressingMode nvmlDeviceGetVirtualizationMode
        nvmlDeviceGetPersistenceMode nvmlDeviceGetComputeMode nvmlDeviceSetComputeMode
        nvmlDeviceGetMemoryInfo nvmlDeviceGetMemoryInfo_v2 nvmlDeviceGetBAR1MemoryInfo
        nvmlDeviceGetPciInfo nvmlDeviceGetPciInfo_v2 nvmlDeviceGetPciInfo_v3 nvmlDeviceGetPciInfoExt
        nvmlDeviceGetMigMode nvmlDeviceGetMaxMigDeviceCount nvmlDeviceGetMigDeviceHandleByIndex
        nvmlDeviceIsMigDeviceHandle nvmlDeviceGetDeviceHandleFromMigDeviceHandle
        nvmlDeviceGetGpuInstanceId nvmlDeviceGetComputeInstanceId nvmlDeviceGetGpuInstanceById
        nvmlDeviceGetGpuInstanceProfileInfo nvmlDeviceGetGpuInstanceProfileInfoV
        nvmlDeviceGetGpuInstanceProfileInfoByIdV
        nvmlDeviceGetGpuInstancePossiblePlacements nvmlDeviceGetGpuInstancePossiblePlacements_v2
        nvmlDeviceGetGpuInstanceRemainingCapacity
        nvmlDeviceGetSupportedEventTypes
        nvmlDeviceGetTopologyCommonAncestor nvmlDeviceGetTopologyNearestGpus nvmlDeviceGetP2PStatus
        nvmlDeviceGetNvLinkState nvmlDeviceGetNvLinkVersion nvmlDeviceGetNvLinkCapability
        nvmlDeviceGetNvLinkRemotePciInfo nvmlDeviceGetNvLinkRemotePciInfo_v2 nvmlDeviceGetNvLinkRemoteDeviceType
        nvmlDeviceGetCpuAffinity nvmlDeviceGetCpuAffinityWithinScope nvmlDeviceGetMemoryAffinity
        nvmlDeviceGetNumaNodeId
        nvmlDeviceGetComputeRunningProcesses nvmlDeviceGetComputeRunningProcesses_v2
        nvmlDeviceGetComputeRunningProcesses_v3
        nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetGraphicsRunningProcesses_v2
        nvmlDeviceGetGraphicsRunningProcesses_v3
        nvmlDeviceGetMPSComputeRunningProcesses nvmlDeviceGetMPSComputeRunningProcesses_v2
        nvmlDeviceGetMPSComputeRunningProcesses_v3
        nvmlDeviceGetAttributes nvmlDeviceGetAttributes_v2
        nvmlDeviceSetMigMode
        nvmlDeviceCreateGpuInstance nvmlDeviceCreateGpuInstanceWithPlacement nvmlDeviceGetGpuInstances
        nvmlGpuInstanceGetInfo nvmlGpuInstanceDestroy
        nvmlGpuInstanceGetComputeInstanceProfileInfo nvmlGpuInstanceGetComputeInstanceProfileInfoV
        nvmlGpuInstanceGetComputeInstanceRemainingCapacity nvmlGpuInstanceCreateComputeInstance
        nvmlGpuInstanceGetComputeInstances nvmlGpuInstanceGetComputeInstanceById
        nvmlComputeInstanceGetInfo nvmlComputeInstanceGetInfo_v2 nvmlComputeInstanceDestroy
        nvmlEventSetCreate nvmlEventSetFree nvmlEventSetWait nvmlEventSetWait_v2 nvmlDeviceRegisterEvents
        nvmlDeviceGetFieldValues
        nvmlDeviceGetGpuFabricInfo nvmlDeviceGetGpuFabricInfoV
    }
    declined {
        nvmlSystemGetProcessName nvmlSystemGetHicVersion nvmlSystemGetConfComputeState
        nvmlSystemGetConfComputeCapabilities nvmlUnitGetCount
        nvmlDeviceSetPersistenceMode
        nvmlDeviceGetTemperature nvmlDeviceGetTemperatureThreshold nvmlDeviceGetFanSpeed nvmlDeviceGetFanSpeed_v2
        nvmlDeviceGetNumFans nvmlDeviceGetPowerUsage nvmlDeviceGetPowerManagementMode
        nvmlDeviceGetPowerManagementLimit nvmlDeviceGetPowerManagementLimitConstraints
        nvmlDeviceGetPowerManagementDefaultLimit nvmlDeviceGetEnforcedPowerLimit nvmlDeviceGetPowerState
        nvmlDeviceGetPerformanceState nvmlDeviceGetTotalEnergyConsumption
        nvmlDeviceGetClockInfo nvmlDeviceGetMaxClockInfo nvmlDeviceGetClock nvmlDeviceGetApplicationsClock
        nvmlDeviceGetCurrentClocksThrottleReasons nvmlDeviceGetCurrentClocksEventReasons
        nvmlDeviceGetSupportedClocksThrottleReasons
        nvmlDeviceGetUtilizationRates nvmlDeviceGetEncoderUtilization nvmlDeviceGetDecoderUtilization
        nvmlDeviceGetJpgUtilization nvmlDeviceGetOfaUtilization nvmlDeviceGetProcessUtilization
        nvmlDeviceGetEncoderStats nvmlDeviceGetFBCStats nvmlDeviceGetEncoderCapacity
        nvmlDeviceGetEccMode nvmlDeviceGetTotalEccErrors nvmlDeviceGetDetailedEccErrors
        nvmlDeviceGetMemoryErrorCounter nvmlDeviceGetRetiredPages nvmlDeviceGetRetiredPages_v2
        nvmlDeviceGetRetiredPagesPendingStatus nvmlDeviceGetRemappedRows nvmlDeviceGetRowRemapperHistogram
        nvmlDeviceGetDisplayMode nvmlDeviceGetDisplayActive nvmlDeviceGetDriverModel nvmlDeviceGetDriverModel_v2
        nvmlDeviceGetInforomVersion nvmlDeviceGetInforomImageVersion nvmlDeviceValidateInforom
        nvmlDeviceGetBridgeChipInfo nvmlDeviceGetGpuOperationMode nvmlDeviceGetViolationStatus
        nvmlDeviceGetPcieThroughput nvmlDeviceGetPcieReplayCounter nvmlDeviceGetCurrPcieLinkGeneration
        nvmlDeviceGetMaxPcieLinkGeneration nvmlDeviceGetGpuMaxPcieLinkGeneration
        nvmlDeviceGetCurrPcieLinkWidth nvmlDeviceGetMaxPcieLinkWidth nvmlDeviceGetPcieSpeed
        nvmlDeviceGetPcieLinkMaxSpeed nvmlDeviceGetIrqNum nvmlDeviceGetPowerSource
        nvmlDeviceGetAutoBoostedClocksEnabled nvmlDeviceGetAccountingMode nvmlDeviceGetAccountingStats
        nvmlDeviceGetAccountingPids nvmlDeviceGetAccountingBufferSize
        nvmlDeviceGetNvLinkErrorCounter nvmlDeviceGetNvLinkUtilizationCounter
        nvmlDeviceGetGridLicensableFeatures nvmlDeviceGetGridLicensableFeatures_v2
        nvmlDeviceGetGridLicensableFeatures_v3 nvmlDeviceGetGridLicensableFeatures_v4
        nvmlDeviceGetSupportedVgpus nvmlDeviceGetCreatableVgpus nvmlDeviceGetActiveVgpus
        nvmlDeviceGetHostVgpuMode nvmlDeviceGetGspFirmwareVersion nvmlDeviceGetGspFirmwareMode
        nvmlDeviceGetConfComputeGpuAttestationReport nvmlDeviceGetConfComputeMemSizeInfo
        nvmlDeviceGetGpcClkVfOffset nvmlDeviceGetMemClkVfOffset nvmlDeviceGetMinMaxClockOfPState
        nvmlDeviceModifyDrainState nvmlDeviceQueryDrainState nvmlDeviceRemoveGpu_v2 nvmlDeviceDiscoverGpus
        nvmlGpmQueryDeviceSupport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart_and_fit_the_counter_file() {
        let names: std::collections::BTreeSet<_> = Function::NAMES.iter().collect();
        assert_eq!(names.len(), Function::NAMES.len());
        assert!(Function::NAMES.iter().all(|name| name.len() < 56));
    }
}
