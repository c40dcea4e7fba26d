// How ci/allure-report renders; by hand: npx allure generate RESULTS --config ci/allurerc.mjs
export default {
  name: "Scale acceptance of OpenShift Virtualization",
  output: "./allure-report",
  historyPath: process.env.VMSCALE_ALLURE_HISTORY,
  categories: {
    rules: [
      { name: "SLO breach", matchers: { statuses: ["failed"] } },
      { name: "Cluster not fit for the suite", matchers: { statuses: ["broken"], message: /ClusterUnfit|the cluster is not fit/ } },
      { name: "Measurement could not be taken", matchers: { statuses: ["broken"] } },
    ],
  },
  plugins: { awesome: { options: { singleFile: true, groupBy: ["feature"] } } },
};
