// What OHIF 3.13.2 stores as a segmentation: a LABELMAP in RLE Lossless, by the library that it calls.
// Beside a copy of this file: npm install --legacy-peer-deps --ignore-scripts @babel/runtime@7.29.7
//   @cornerstonejs/adapters@5.6.8 @cornerstonejs/core@5.6.8 @cornerstonejs/tools@5.6.8 @cornerstonejs/metadata@5.6.8
// Then: node ohif_labelmap.mjs ohif_labelmap.dcm
// The options are those of OHIF's own call. The series is series.stack(4) of these tests.
import { writeFileSync } from 'node:fs';
import { adaptersSEG } from '@cornerstonejs/adapters';
import dcmjs from 'dcmjs';

const [LABELMAP, RLE] = ['1.2.840.10008.5.1.4.1.1.66.7', '1.2.840.10008.1.2.5'];
const [rows, columns, slices, uid] = [24, 32, 4, '1.2.826.0.1.3'];
const of = imageId => Number(imageId.split(':')[1]);
const study = {
  StudyInstanceUID: `${uid}.8`, PatientID: 'P1', PatientName: 'made up', PatientBirthDate: '', PatientSex: '',
  StudyDate: '20260102', StudyTime: '030405', StudyID: '', AccessionNumber: '', ReferringPhysicianName: '',
};
const series = { SeriesInstanceUID: `${uid}.9`, Modality: 'MR', SeriesNumber: 1, Manufacturer: '' };
const image = index => ({
  SOPClassUID: '1.2.840.10008.5.1.4.1.1.4', SOPInstanceUID: `${uid}.1.${index}`, InstanceNumber: index + 1,
  FrameOfReferenceUID: `${uid}.7`, ImagePositionPatient: [-10, -20, 30 + 3 * index],
  ImageOrientationPatient: [1, 0, 0, 0, 1, 0], PixelSpacing: [2, 0.5], SliceThickness: 3, Rows: rows,
  Columns: columns, BitsStored: 16, HighBit: 15, PixelRepresentation: 0, SamplesPerPixel: 1,
  PhotometricInterpretation: 'MONOCHROME2', ContentDate: '20260102', ContentTime: '030405',
});
const metadata = {
  get: (kind, imageId) => ({ StudyData: study, SeriesData: series, ImageData: image(of(imageId)),
    imagePlaneModule: { imagePositionPatient: image(of(imageId)).ImagePositionPatient,
      imageOrientationPatient: image(of(imageId)).ImageOrientationPatient } })[kind],
};
const images = Array.from({ length: slices }, (_, index) => ({
  imageId: `made:${index}`, voxelManager: { getScalarData: () => new Uint16Array(rows * columns) },
}));

// Segment 1 is a stair on slices 1 and 2 (from 0), segment 2 a box on slice 2; slices 0 and 3 have nothing.
const drawn = (row, column, slice) => {
  if (slice === 2 && row >= 16 && row < 20 && column >= 5 && column < 30) return 2;
  return (slice === 1 || slice === 2) && row < 12 && column <= 2 * row ? 1 : 0;
};
const labelmaps2D = images.map((_, slice) => ({
  rows, columns, segmentsOnLabelmap: [1, 2],
  pixelData: Uint8Array.from({ length: rows * columns }, (_, at) => drawn(Math.floor(at / columns), at % columns, slice)),
}));
const code = (CodeValue, CodeMeaning) => ({ CodeValue, CodingSchemeDesignator: 'SCT', CodeMeaning });
const segment = (number, label) => ({
  SegmentNumber: number, SegmentLabel: label, SegmentAlgorithmType: 'MANUAL', SegmentAlgorithmName: 'OHIF Brush',
  SegmentedPropertyCategoryCodeSequence: code('85756007', 'Tissue'),
  SegmentedPropertyTypeCodeSequence: code('85756007', 'Tissue'),
});
const { dataset } = adaptersSEG.Cornerstone3D.Segmentation.generateSegmentation(
  images, { labelmaps2D, metadata: [null, segment(1, 'stair'), segment(2, 'box')] }, metadata,
  { sopClassUID: LABELMAP, transferSyntaxUID: RLE, transferSyntaxUid: RLE },
);
writeFileSync(process.argv[2], Buffer.from(dcmjs.data.datasetToDict(dataset).write()));
